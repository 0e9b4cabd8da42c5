/** What the API answers, as far as the page reads it: docs/api.md. Read by `tsc --checkJs`, never served. */

interface FileProgress { path: string; bytes_downloaded: number; bytes_total: number }

interface DownloadEvent {
  stage: "downloading" | "complete" | "error";
  download_id?: string;
  bytes_downloaded?: number; bytes_total?: number; bytes_per_second?: number; eta_seconds?: number;
  files_done?: number; files_total?: number; files?: FileProgress[];
  status?: string; attempt?: number; name?: string; priority?: string; local_path?: string; seconds?: number;
  code?: string; message?: string; details?: Record<string, any>;
}

interface DownloadRecord {
  id: string; model_ref: string; status: string; priority: string; local_path: string | null;
  attempt: number | null; retry_of: string | null; worker: string | null;
  created_at: number | null; ended_at: number | null; duration_seconds: number | null;
  bytes_received: number; average_bytes_per_second: number | null; reason: string | null;
  name?: string; ahead?: number; waiting_for?: string; progress: DownloadEvent | null;
}

/** A download as the page holds it. */
interface Row {
  id: string; record: DownloadRecord; event: DownloadEvent; status: string; name: string;
  /** Whether the event came from the stream, which is newer than any list. */
  heard: boolean;
}

interface Variant { name: string; size: number; files: string[] }

interface Plan {
  model_ref: string; name: string; repo: string | null; commit: string | null; variant: string | null;
  local_path: string | null; files: { path: string; size: number | null; on_disk: boolean }[];
  bytes_total: number | null; bytes_missing: number | null; room: { available: number; enough: boolean } | null;
  variants?: Variant[]; license?: string | null;
}

interface Model {
  id: string; created: number; size: number; path: string; variant: string | null; revision: string | null;
  files: { path: string; size: number }[]; incomplete?: boolean;
}

interface PartialFile { path: string; kind: string; bytes: number; modified_at: number; in_use: boolean; model_ref: string | null }

interface LlmWorker {
  id: string; url: string; model_ref: string; backend: string; device: number; state: string;
  slots_total: number; slots_available: number; download_id: string | null; model_id: string | null;
}

interface Worker { name: string; host: string; state: string; download_id: string | null; version: string }
