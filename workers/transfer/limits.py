"""Every number the engine obeys, in one frozen object, so that a test can make any of them small."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Limits:
    """The engine's numbers; units are in the names.

    The defaults are meant for files of 1 GB to 1 TB from a CDN that gives one connection a fraction of the line.
    """

    #: Bytes. Smaller parts pay a round trip too often, larger ones keep the frontier hash waiting.
    part_min_bytes: int = 8 * MIB
    part_max_bytes: int = 64 * MIB
    #: A file is cut in about so many parts, so that all connections have several turns.
    parts_per_file: int = 64
    #: Bytes. Below this a file is one GET in the calling thread: no journal, no helper threads.
    small_file_bytes: int = 16 * MIB
    #: Bytes. An idle connection takes the upper half of a remainder only when each half is at least this long.
    steal_min_bytes: int = MIB
    #: Bytes. One read from a socket and one write to the file; larger gains nothing, smaller costs system calls.
    read_bytes: int = MIB
    #: Bytes. The hash reads the file back in such blocks; they stay in the CPU's cache.
    hash_block_bytes: int = 512 * KIB

    #: Bytes of a piece and of a half worth stealing over Xet, whose streams fetch ahead by tens of megabytes: what is
    #: taken from one is fetched twice.
    xet_part_bytes: int = 256 * MIB
    xet_steal_min_bytes: int = 64 * MIB
    #: Bytes whose plan a stream over Xet asks for at a time, and so the longest run that it holds as one. Smaller ones
    #: are more requests for plans; larger ones are more memory, and a longer wait for the first byte on a slow line.
    xet_fetch_bytes: int = 6 * MIB
    #: Bytes that a stream has on their way or not yet handed on. At least twice the above: the last run of a piece may
    #: be so long, and one that never fits would be waited for for ever.
    xet_buffer_bytes: int = 18 * MIB
    #: Streams of one file over Xet. Each has several connections inside; the second covers the pause between pieces.
    xet_streams_max: int = 2
    #: Failures of Xet in a row, without a byte, before the file goes on over HTTP.
    xet_failures_max: int = 3

    #: Connections after the first answer, the step of growth, and the cap per file and per host.
    connections_start: int = 4
    connections_step: int = 2
    connections_max: int = 16
    #: Seconds between two looks at the aggregate rate.
    ramp_interval_s: float = 0.4
    #: Seconds after which connections that bring their full share may get company already.
    ramp_quick_s: float = 0.2
    #: Seconds one connection is watched before it gets company.
    solo_look_s: float = 0.15
    #: Ratio. More connections must bring this much, or they are taken back.
    ramp_gain: float = 1.10
    #: Bytes per second. A single connection this quick is limited by this machine, not by the server.
    saturated_bytes_per_s: int = 400_000_000
    #: Seconds after which a settled count is tried again: lines and servers change.
    ramp_again_s: float = 15.0

    #: Seconds to connect, TLS included.
    connect_timeout_s: float = 10.0
    #: Seconds without a byte on one connection before it is replaced.
    stall_s: float = 20.0
    #: Seconds for the first byte of an answer, None for as long as `stall_s`: a mirror may have to fetch a file first.
    first_byte_s: float | None = None
    #: Seconds for the first byte of an answer while other connections of the file bring bytes; four times the slowest
    #: answer so far where that is longer. A host that serves no more leaves those beyond hanging.
    spare_first_byte_s: float = 3.0
    #: Seconds for which a name that DNS does not know is asked for again: a machine that wakes up has no network yet.
    name_grace_s: float = 4.0
    #: Seconds without progress on all connections before the next transport (or a fresh location) is tried.
    stall_all_s: float = 60.0
    #: Seconds without progress after which the download is given up.
    give_up_s: float = 15 * 60.0
    #: Bytes per second. Less than this is no progress: it keeps a source that trickles from holding a worker for ever.
    min_bytes_per_s: int = KIB

    #: Attempts of one connection without progress of the file before the download fails.
    attempts_max: int = 6
    #: Seconds; the bounds of the exponential backoff. Full jitter is drawn below the bound.
    backoff_min_s: float = 0.1
    backoff_max_s: float = 60.0
    #: Factor between two bounds. Four reaches a minute within six attempts, so an outage of half a minute is outlived.
    backoff_factor: float = 4.0
    #: Seconds. A longer Retry-After is not believed: rate limits of the Hub run for 5 minutes.
    retry_after_max_s: float = 15 * 60.0

    #: Bytes of a body whose server names no length: without an end it would fill the disk.
    undeclared_max_bytes: int = 50 * GIB

    redirects_max: int = 10
    #: Seconds before the expiry of a signed URL at which it is resolved anew.
    expiry_margin_s: float = 5 * 60.0

    #: A record goes to the journal at the latest after so many seconds or bytes; it bounds what a kill -9 costs. What
    #: sits in the sockets of all connections is lost too, so the bytes are few of the 64 MiB a kill may cost. Readers
    #: of a file under way wait for each record.
    journal_every_s: float = 1.0
    journal_every_bytes: int = 4 * MIB
    #: The same for fdatasync; it bounds what a power cut costs.
    sync_every_s: float = 10.0
    sync_every_bytes: int = GIB
    #: Bytes. A journal longer than this is rewritten when it is opened or grown beyond it.
    journal_max_bytes: int = 8 * MIB

    #: Fraction of the file system, and bytes: what the engine leaves free (the smaller of both).
    keep_free_fraction: float = 0.05
    keep_free_max_bytes: int = 10 * GIB

    #: Seconds between two progress reports (10 a second) and between two looks of the coordinator.
    progress_interval_s: float = 0.1
    tick_s: float = 0.05
    #: Seconds after which a connection that is paused or held is closed: servers drop idle ones then. What the kernel
    #: has of it is lost with it, some megabytes each: 48 were seen for a Redis that was away for 12 s, at 5 s here.
    pause_keeps_connection_s: float = 30.0

    #: Files that `fetch_many` moves at a time, below and above `small_file_bytes`.
    small_files_at_once: int = 8
    large_files_at_once: int = 2

    def part_bytes(self, size: int | None) -> int:
        """The part length for a file of `size` bytes."""
        return min(self.part_max_bytes, max(self.part_min_bytes, (size or 0) // self.parts_per_file))
