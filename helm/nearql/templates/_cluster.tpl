{{/* The settings of a node of a cluster, as environment variables of its pod. */}}
{{- define "nearql.cluster" -}}
- name: NEARQL_CLUSTER_ENABLED
  value: "true"
- name: NEARQL_CLUSTER_WRITE_ROUTING
  value: {{ .Values.cluster.writeRouting }}
- name: NEARQL_CLUSTER_VOTERS
  value: {{ include "nearql.voters" . }}
- name: NEARQL_CLUSTER_DISCOVERY
  value: dns
- name: NEARQL_CLUSTER_DNS_NAME
  value: {{ include "nearql.domain" . }}
- name: NEARQL_CLUSTER_CA_FILE
  value: /etc/nearql/nodes/ca.pem
- name: NEARQL_CLUSTER_CERT_FILE
  value: /etc/nearql/nodes/$(NEARQL_NODE_NAME).pem
- name: NEARQL_CLUSTER_KEY_FILE
  value: /etc/nearql/nodes/$(NEARQL_NODE_NAME).key
- name: NEARQL_RAFT_HOST
  value: 0.0.0.0
- name: NEARQL_REPLICATION_HOST
  value: 0.0.0.0
- name: NEARQL_REPLICATION_ADVERTISE
  value: $(NEARQL_NODE_NAME).{{ include "nearql.domain" . }}:8472
{{- end }}
