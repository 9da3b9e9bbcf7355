{{/* Parts of pods that several groups have. */}}

{{- define "larimar.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{/* The policy by which an image is pulled, where one is chosen; takes the values of the image. */}}
{{- define "larimar.pullPolicy" -}}
{{- with .pullPolicy }}
imagePullPolicy: {{ . }}
{{- end }}
{{- end }}

{{/* Where a pod may run, and what its images are pulled with; takes a list of root and group. */}}
{{- define "larimar.placement" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ quote . }}
  {{- end }}
{{- end }}
{{- with $group.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with $group.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{/* How many pods a group of workers has. */}}
{{- define "larimar.replicas" -}}
replicas: {{ int64 .replicas }}
minReplicas: {{ int64 .minReplicas }}
maxReplicas: {{ int64 .maxReplicas }}
{{- end }}

{{/* What a container asks for, of memory no more than it may have. */}}
{{- define "larimar.resources" -}}
requests: {cpu: {{ .cpu | toString | quote }}, memory: {{ .memory }}}
limits: {memory: {{ .memory }}}
{{- end }}
