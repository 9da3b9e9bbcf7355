{{/* Custom resource of the compute pods that the services without a share of a GPU ask for, or nothing
     where there is none: shares of GPUs bring the others there. */}}
{{- define "larimar.onCpu" -}}
{{- $settings := .Values.settings -}}
{{- range list "encoder" "scope" "decoder" -}}
{{- if not (dig . "gpus" 0.0 $settings) }}{{ . }} {{ end -}}
{{- end -}}
{{- end }}

{{/* The settings as the pipeline reads them: the values, and what follows from the pods. */}}
{{- define "larimar.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $mounted := dict
  "data_dir" "/var/lib/larimar"
  "host" "0.0.0.0"
  "port" 9000
  "http_port" 8000
  "erase_ledger" "/var/lib/larimar-ledger/erase-ledger.jsonl"
  "audit_dir" "/var/lib/larimar-ledger/audit"
  "tls_cert" "/etc/larimar/tls/tls.crt"
  "tls_key" "/etc/larimar/tls/tls.key"
-}}
{{- $placed := dict "memory" "follower" "gateway" "gateway" -}}
{{- range splitList " " (include "larimar.onCpu" . | trim) -}}
{{- if . }}{{ $_ := set $placed . "compute" }}{{ end -}}
{{- end -}}
{{- range $service, $resource := $placed -}}
{{- $_ := set $settings $service (merge (dict "resource" $resource) (default dict (get $settings $service))) -}}
{{- end -}}
{{- toPrettyJson (merge $mounted $settings) -}}
{{- end }}
