{{/* Refuses values that would render, and then not work. */}}

{{/* Bytes of a size, as Valkey (mb, gb) and Kubernetes (Mi, Gi, Ti) write it. */}}
{{- define "larimar.bytes" -}}
{{- $units := dict "mb" 1048576 "gb" 1073741824 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 -}}
{{- mul (regexFind "^[0-9]+" . | int64) (get $units (regexFind "[A-Za-z]+$" .)) -}}
{{- end }}

{{- define "larimar.checks" -}}
{{- $values := .Values -}}
{{- $namespace := .Release.Namespace -}}

{{/* Secrets */}}
{{- range $value, $made := dict
  "store" "generic NAME --from-literal=password=$(openssl rand -hex 32)"
  "rayStore" "generic NAME --from-literal=password=$(openssl rand -hex 32)"
  "tls" "tls NAME --cert=tls.crt --key=tls.key"
-}}
{{- if not (get $values.secrets $value) -}}
{{- fail (printf "secrets.%s is empty: make the secret by `kubectl --namespace %s create secret %s`, and give its NAME" $value $namespace $made) -}}
{{- end -}}
{{- end -}}

{{/* Pods */}}
{{- range $name := list "gateways" "followers" "compute" -}}
{{- $group := get $values $name -}}
{{- $few := int64 $group.minReplicas -}}
{{- $most := int64 $group.maxReplicas -}}
{{- if gt $few $most -}}
{{- fail (printf "%s.minReplicas is %d and %s.maxReplicas %d: the fewest pods cannot be more than the most" $name $few $name $most) -}}
{{- end -}}
{{- if or (lt (int64 $group.replicas) $few) (gt (int64 $group.replicas) $most) -}}
{{- fail (printf "%s.replicas is %d: choose a number from minReplicas (%d) to maxReplicas (%d)" $name (int64 $group.replicas) $few $most) -}}
{{- end -}}
{{- end -}}

{{/* Stores */}}
{{- range $name := list "store" "rayStore" -}}
{{- $store := get $values $name -}}
{{- $most := include "larimar.bytes" $store.maxmemory | int64 -}}
{{- $limit := include "larimar.bytes" $store.resources.memory | int64 -}}
{{- if gt (mul 3 $most) (mul 2 $limit) -}}
{{- fail (printf "%s.maxmemory is %s and %s.resources.memory %s: set maxmemory to two thirds of the memory at most, since a rewrite of the store's file copies what changes meanwhile" $name $store.maxmemory $name $store.resources.memory) -}}
{{- end -}}
{{- end -}}
{{- $audit := dig "audit_mb" 1024 $values.settings | int64 -}}
{{- if gt (mul 2 $audit 1048576) (include "larimar.bytes" $values.ledger.storage.size | int64) -}}
{{- fail (printf "ledger.storage.size is %s and settings.audit_mb %d: give the volume twice the audit log's size at least, since no fact can be erased once it is full" $values.ledger.storage.size $audit) -}}
{{- end -}}

{{/* Shares: replicas must find room twice, since old and new run side by side while they are replaced. */}}
{{- range $service, $name := dict "gateway" "gateways" "memory" "followers" -}}
{{- $group := get $values $name -}}
{{- $replicas := dig $service "replicas" 1 $values.settings | int64 -}}
{{- if gt $replicas (int64 $group.minReplicas) -}}
{{- fail (printf "settings.%s.replicas is %d and %s.minReplicas %d: each pod has room for two, so give as many pods as replicas, or a replacement waits for ever" $service $replicas $name (int64 $group.minReplicas)) -}}
{{- end -}}
{{- $asked := mulf 2 $replicas (dig $service "cpus" 0.0 $values.settings) -}}
{{- if gt $asked (mulf $group.resources.cpu $group.minReplicas) -}}
{{- fail (printf "settings.%s asks for %v CPUs while it is replaced, and %s.minReplicas pods of %d have less: raise resources.cpu, or lower cpus" $service $asked $name (int64 $group.resources.cpu)) -}}
{{- end -}}
{{- end -}}

{{- $gpus := 0.0 -}}
{{- $cpus := 0.0 -}}
{{- range $service := list "encoder" "scope" "decoder" -}}
{{- $replicas := dig $service "replicas" 1 $values.settings -}}
{{- $share := dig $service "gpus" 0.0 $values.settings | float64 -}}
{{- if and (gt $share 0.0) (not (int64 $values.compute.resources.gpus)) -}}
{{- fail (printf "settings.%s.gpus is %v and compute.resources.gpus 0: set it to 0 too, or give the pods a GPU" $service $share) -}}
{{- end -}}
{{- if not (or $share (dig $service "cpus" 0.0 $values.settings)) -}}
{{- fail (printf "settings.%s has gpus and cpus of 0: give it a share of either, by which Ray finds it room" $service) -}}
{{- end -}}
{{- $gpus = addf $gpus (mulf 2 $replicas $share) -}}
{{- $cpus = addf $cpus (mulf 2 $replicas (dig $service "cpus" 0.0 $values.settings)) -}}
{{- end -}}
{{- if gt $gpus (mulf $values.compute.resources.gpus $values.compute.minReplicas) -}}
{{- fail (printf "encoder, scope and decoder ask for %v GPUs while they are replaced, and compute.minReplicas pods have less: lower their gpus or replicas in the settings, or raise compute.minReplicas" $gpus) -}}
{{- end -}}
{{- if gt $cpus (mulf $values.compute.resources.cpu $values.compute.minReplicas) -}}
{{- fail (printf "encoder, scope and decoder ask for %v CPUs while they are replaced, and compute.minReplicas pods have less: lower their cpus or replicas in the settings, or raise compute.resources.cpu" $cpus) -}}
{{- end -}}
{{- end }}
