{{- define "hive.name" -}}
{{- default .Release.Name .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "hive.labels" -}}
app.kubernetes.io/name: hive
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* What a part is found by: (list . "api") */}}
{{- define "hive.selector" -}}
app.kubernetes.io/name: hive
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "hive.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "hive.podSecurity" -}}
runAsNonRoot: true
{{- if not (kindIs "invalid" .Values.podSecurity.runAsUser) }}
runAsUser: {{ int .Values.podSecurity.runAsUser }}
{{- end }}
runAsGroup: 0
{{- if not (kindIs "invalid" .Values.podSecurity.fsGroup) }}
fsGroup: {{ int .Values.podSecurity.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "hive.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Names by which clients may reach the API: the service's, the ingress's, and those of api.publicHosts. */}}
{{- define "hive.publicHosts" -}}
{{- $service := include "hive.name" . -}}
{{- $short := printf "%s.%s" $service .Release.Namespace -}}
{{- $names := list $service $short (printf "%s.svc" $short) (printf "%s.svc.cluster.local" $short) -}}
{{- if .Values.ingress.enabled -}}
{{- $names = append $names .Values.ingress.host -}}
{{- end -}}
{{- join "," (concat $names .Values.api.publicHosts) -}}
{{- end -}}

{{/* What API and workers share: where things are. No secret stands in the environment, but the address of Redis. */}}
{{- define "hive.env" -}}
- name: HIVE_REDIS_URL_FILE
  value: /run/secrets/redis/url
{{- with .Values.redis.tlsSecret }}
- name: HIVE_REDIS_CA_FILE
  value: /run/secrets/redis-tls/ca.crt
{{- if $.Values.redis.clientCertificate }}
- name: HIVE_REDIS_CERT_FILE
  value: /run/secrets/redis-tls/tls.crt
- name: HIVE_REDIS_KEY_FILE
  value: /run/secrets/redis-tls/tls.key
{{- end }}
{{- end }}
- name: HIVE_STORE
  value: {{ .Values.store.mountPath }}
- name: HIVE_HOME
  value: /var/lib/hive
- name: HIVE_SECRET_KEY_FILE
  value: /run/secrets/hive/secret.key
- name: HF_ENDPOINT
  value: {{ .Values.hub.endpoint | quote }}
- name: HIVE_LOG_FORMAT
  value: json
{{- end -}}

{{- define "hive.mounts" -}}
- {name: store, mountPath: {{ .Values.store.mountPath }}}
- {name: home, mountPath: /var/lib/hive}
- {name: tmp, mountPath: /tmp}
- {name: secret-key, mountPath: /run/secrets/hive, readOnly: true}
- {name: redis-url, mountPath: /run/secrets/redis, readOnly: true}
{{- if .Values.redis.tlsSecret }}
- {name: redis-tls, mountPath: /run/secrets/redis-tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "hive.volumes" -}}
- name: store
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-store" (include "hive.name" .)) .Values.store.existingClaim }}
- name: home
  emptyDir: {sizeLimit: 64Mi}
- name: tmp
  emptyDir: {sizeLimit: 256Mi}
- name: secret-key
  secret:
    secretName: {{ default (printf "%s-key" (include "hive.name" .)) .Values.secretKey.existingSecret }}
    defaultMode: 0440
- name: redis-url
  secret:
    secretName: {{ default (printf "%s-redis" (include "hive.name" .)) .Values.redis.existingSecret }}
    defaultMode: 0440
    items: [{key: url, path: url}]
{{- with .Values.redis.tlsSecret }}
- name: redis-tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end -}}
