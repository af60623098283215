{{/*
One StatefulSet: the voters (or the node alone), further nodes that don't vote, or those with a GPU.
Argument: root, and pool with name, component, replicas, image, resources, nodeSelector, tolerations,
runtimeClass, gpu.
*/}}
{{- define "nearql.pool" -}}
{{- $pool := .pool }}
{{- $voting := eq $pool.component "node" }}
{{- with .root }}
{{- $fullname := include "nearql.fullname" . }}
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {{ $pool.name }}
  labels:
    {{- include "nearql.labels" . | nindent 4 }}
    app.kubernetes.io/component: {{ $pool.component }}
spec:
  replicas: {{ $pool.replicas }}
  {{- if .Values.cluster.enabled }}
  # A majority must be there before any of them is ready.
  podManagementPolicy: Parallel
  {{- end }}
  serviceName: {{ $fullname }}-headless
  selector:
    matchLabels:
      {{- include "nearql.selector" . | nindent 6 }}
      app.kubernetes.io/component: {{ $pool.component }}
  {{- if .Values.persistence.enabled }}
  persistentVolumeClaimRetentionPolicy:
    whenDeleted: Retain
    whenScaled: Retain
  {{- end }}
  template:
    metadata:
      labels:
        {{- include "nearql.labels" . | nindent 8 }}
        app.kubernetes.io/component: {{ $pool.component }}
        {{- with .Values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      annotations:
        # A changed configuration restarts the pod.
        checksum/config: {{ toYaml .Values.config | sha256sum }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      automountServiceAccountToken: false
      # Kubernetes would inject NEARQL_* variables for the service, and those are our settings.
      enableServiceLinks: false
      terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
      {{- with $pool.runtimeClass }}
      runtimeClassName: {{ . }}
      {{- end }}
      {{- with .Values.priorityClassName }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        fsGroupChangePolicy: OnRootMismatch
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: nearql
          image: "{{ $pool.image.repository }}:{{ default .Chart.AppVersion $pool.image.tag }}"
          imagePullPolicy: {{ $pool.image.pullPolicy }}
          {{- if not .Values.auth.existingSecret }}
          # Nobody is asked for a key: the network policy decides who may connect.
          args: [--insecure]
          {{- end }}
          env:
            - name: NEARQL_NODE_NAME
              valueFrom:
                fieldRef:
                  fieldPath: metadata.name
            {{- if .Values.cluster.enabled }}
            - name: NEARQL_NODE_ADVERTISE_URL
              value: {{ include "nearql.scheme" . }}://$(NEARQL_NODE_NAME).{{ include "nearql.domain" . }}:8470
            {{- include "nearql.cluster" . | nindent 12 }}
            {{- if $voting }}
            - name: NEARQL_CLUSTER_BOOTSTRAP
              value: "true"
            {{- else if .Values.cluster.joinSecret }}
            # Read once, by a disk that the cluster does not know.
            - name: NEARQL_CLUSTER_JOIN_TOKEN_FILE
              value: /etc/nearql/join/$(NEARQL_NODE_NAME)
            {{- end }}
            {{- else }}
            - name: NEARQL_NODE_ADVERTISE_URL
              value: {{ include "nearql.scheme" . }}://{{ $fullname }}.{{ .Release.Namespace }}.svc:{{ .Values.service.port }}
            {{- end }}
            - name: NEARQL_LOG_FORMAT
              value: json
            {{- if $pool.gpu }}
            # Without a working device the node does not start: it is never ready, and nobody is served by less.
            - name: NEARQL_ENGINE_DEVICE
              value: gpu
            {{- end }}
            {{- if .Values.auth.existingSecret }}
            - name: NEARQL_AUTH_MODE
              value: required
            {{- with .Values.auth.adminKey }}
            - name: NEARQL_AUTH_BOOTSTRAP_ADMIN_KEY_FILE
              value: /etc/nearql/auth/{{ . }}
            {{- end }}
            {{- with .Values.auth.jwtKeySet }}
            - name: NEARQL_AUTH_JWT_KEY_FILE
              value: /etc/nearql/auth/{{ . }}
            {{- end }}
            {{- end }}
            {{- if .Values.tls.existingSecret }}
            - name: NEARQL_HTTP_TLS_CERT_FILE
              value: /etc/nearql/tls/tls.crt
            - name: NEARQL_HTTP_TLS_KEY_FILE
              value: /etc/nearql/tls/tls.key
            {{- end }}
            {{- if .Values.config }}
            - name: NEARQL_CONFIG
              value: /etc/nearql/config/node.yaml
            {{- end }}
            {{- with .Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - name: http
              containerPort: 8470
              protocol: TCP
            {{- if .Values.cluster.enabled }}
            - name: raft
              containerPort: 8471
              protocol: TCP
            - name: replication
              containerPort: 8472
              protocol: TCP
            {{- end }}
          # Opening a large database replays its log: five minutes before liveness counts.
          startupProbe:
            {{- include "nearql.probe" (list . "/livez") | nindent 12 }}
            periodSeconds: 5
            failureThreshold: 60
          livenessProbe:
            {{- include "nearql.probe" (list . "/livez") | nindent 12 }}
            periodSeconds: 10
            failureThreshold: 6
          readinessProbe:
            {{- include "nearql.probe" (list . "/readyz") | nindent 12 }}
            periodSeconds: 5
            failureThreshold: 2
          resources:
            {{- toYaml $pool.resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
          volumeMounts:
            - name: data
              mountPath: /var/lib/nearql
            - name: tmp
              mountPath: /tmp
            {{- if .Values.auth.existingSecret }}
            - name: auth
              mountPath: /etc/nearql/auth
              readOnly: true
            {{- end }}
            {{- if .Values.config }}
            - name: config
              mountPath: /etc/nearql/config
              readOnly: true
            {{- end }}
            {{- if .Values.cluster.enabled }}
            - name: nodes
              mountPath: /etc/nearql/nodes
              readOnly: true
            {{- end }}
            {{- if .Values.tls.existingSecret }}
            - name: tls
              mountPath: /etc/nearql/tls
              readOnly: true
            {{- end }}
            {{- if and (not $voting) .Values.cluster.joinSecret }}
            - name: join
              mountPath: /etc/nearql/join
              readOnly: true
            {{- end }}
      volumes:
        - name: tmp
          emptyDir: {}
        {{- if not .Values.persistence.enabled }}
        - name: data
          emptyDir: {}
        {{- end }}
        {{- if .Values.auth.existingSecret }}
        - name: auth
          secret:
            secretName: {{ .Values.auth.existingSecret }}
            defaultMode: 0440
        {{- end }}
        {{- if .Values.config }}
        - name: config
          configMap:
            name: {{ $fullname }}
        {{- end }}
        {{- if .Values.cluster.enabled }}
        {{- include "nearql.nodeFiles" . | nindent 8 }}
        {{- end }}
        {{- with .Values.tls.existingSecret }}
        - name: tls
          secret:
            secretName: {{ . }}
            defaultMode: 0440
        {{- end }}
        {{- if and (not $voting) .Values.cluster.joinSecret }}
        - name: join
          secret:
            secretName: {{ .Values.cluster.joinSecret }}
            defaultMode: 0440
            optional: true
        {{- end }}
      {{- with $pool.nodeSelector }}
      nodeSelector:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $pool.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- if .Values.affinity }}
      affinity:
        {{- toYaml .Values.affinity | nindent 8 }}
      {{- else if and .Values.cluster.enabled (ne .Values.cluster.antiAffinity "none") }}
      affinity:
        podAntiAffinity:
          {{- if eq .Values.cluster.antiAffinity "required" }}
          requiredDuringSchedulingIgnoredDuringExecution:
            - topologyKey: kubernetes.io/hostname
              labelSelector:
                matchLabels:
                  {{- include "nearql.selector" . | nindent 18 }}
          {{- else }}
          preferredDuringSchedulingIgnoredDuringExecution:
            - weight: 100
              podAffinityTerm:
                topologyKey: kubernetes.io/hostname
                labelSelector:
                  matchLabels:
                    {{- include "nearql.selector" . | nindent 20 }}
          {{- end }}
      {{- end }}
      {{- if and .Values.cluster.enabled .Values.cluster.topologyKey }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: {{ .Values.cluster.topologyKey }}
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "nearql.selector" . | nindent 14 }}
      {{- end }}
  {{- if .Values.persistence.enabled }}
  volumeClaimTemplates:
    - metadata:
        name: data
        labels:
          {{- include "nearql.selector" . | nindent 10 }}
        {{- with .Values.persistence.annotations }}
        annotations:
          {{- toYaml . | nindent 10 }}
        {{- end }}
      spec:
        accessModes: [{{ .Values.persistence.accessMode }}]
        {{- with .Values.persistence.storageClass }}
        storageClassName: {{ . }}
        {{- end }}
        resources:
          requests:
            storage: {{ .Values.persistence.size }}
  {{- end }}
{{- end }}
{{- end }}
