{{/* A store: one Valkey with its volume. Takes root, name, the values of the store, its secret's name. */}}
{{- define "larimar.valkey" -}}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ .name }}
  namespace: {{ quote .root.Release.Namespace }}
  labels: {app.kubernetes.io/name: {{ .name }}}
spec:
  serviceName: {{ .name }}
  replicas: 1
  selector:
    matchLabels: {app.kubernetes.io/name: {{ .name }}}
  template:
    metadata:
      labels: {app.kubernetes.io/name: {{ .name }}}
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 120
      securityContext:
        runAsNonRoot: true
        runAsUser: 999
        runAsGroup: 999
        fsGroup: 999
        seccompProfile: {type: RuntimeDefault}
      {{- with include "larimar.placement" (list .root .store) | trim }}{{ nindent 6 . }}{{ end }}
      containers:
        - name: valkey
          image: {{ .root.Values.valkeyImage.repository }}:{{ .root.Values.valkeyImage.tag }}
          {{- with include "larimar.pullPolicy" .root.Values.valkeyImage | trim }}{{ nindent 10 . }}{{ end }}
          command: [valkey-server]
          args:
            - --port
            - "6379"
            - --dir
            - /data
            - --appendonly
            - "yes"
            - --appendfsync
            - always
            - --save
            - ""
            - --rdbcompression
            - "no"
            - --stream-node-max-entries
            - "1"
            # Well below the limit: a rewrite of the file copies what changes meanwhile.
            - --maxmemory
            - {{ .store.maxmemory }}
            - --maxmemory-policy
            - noeviction
            - --requirepass
            - $(VALKEY_PASSWORD)
          env:
            - name: VALKEY_PASSWORD
              valueFrom:
                secretKeyRef: {name: {{ quote .secret }}, key: password}
            - name: REDISCLI_AUTH
              valueFrom:
                secretKeyRef: {name: {{ quote .secret }}, key: password}
          ports:
            - {name: valkey, containerPort: 6379}
          # It answers LOADING, and not PONG, while it reads a long log.
          startupProbe:
            exec: {command: [sh, -c, valkey-cli ping | grep PONG]}
            periodSeconds: 5
            failureThreshold: 360
          readinessProbe:
            exec: {command: [sh, -c, valkey-cli ping | grep PONG]}
            periodSeconds: 5
            timeoutSeconds: 3
          livenessProbe:
            exec: {command: [sh, -c, valkey-cli ping | grep PONG]}
            periodSeconds: 15
            timeoutSeconds: 10
            failureThreshold: 6
          resources:
            {{- include "larimar.resources" .store.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: data, mountPath: /data}
  volumeClaimTemplates:
    - metadata:
        name: data
      spec:
        accessModes: [ReadWriteOnce]
        {{- with .store.storage.class }}
        storageClassName: {{ quote . }}
        {{- end }}
        resources:
          requests: {storage: {{ .store.storage.size }}}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  namespace: {{ quote .root.Release.Namespace }}
  labels: {app.kubernetes.io/name: {{ .name }}}
spec:
  clusterIP: None
  selector: {app.kubernetes.io/name: {{ .name }}}
  ports:
    - {name: valkey, port: 6379, targetPort: valkey}
{{- end }}
