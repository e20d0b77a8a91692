{{- /* "rayfleet-operator" for a release called rayfleet, "<release>-rayfleet-operator" for others. */}}
{{- define "rayfleet.fullname" -}}
{{- $name := "" }}
{{- if .Values.fullnameOverride }}
{{- $name = .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains "rayfleet" .Release.Name }}
{{- $name = printf "%s-operator" (.Release.Name | trunc 41 | trimSuffix "-") }}
{{- else }}
{{- $name = printf "%s-operator" (printf "%s-rayfleet" .Release.Name | trunc 41 | trimSuffix "-") }}
{{- end }}
{{- /* A release may have a name that a Service cannot have, and that the operator refuses for its Lease. */}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) }}
{{- fail (printf "fullnameOverride: objects would be called %q; set it to a name of a-z, 0-9 and - that begins with a letter and does not end with -" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- /* By its name, NetworkPolicies of fleets let the operator reach Ray, so it is always the same. */}}
{{- define "rayfleet.selectorLabels" -}}
app.kubernetes.io/name: rayfleet
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "rayfleet.ownLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "rayfleet.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: rayfleet
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "rayfleet.labels" -}}
{{- include "rayfleet.labelsAnd" (list . (dict)) }}
{{- end }}

{{- /* Takes (list $ labels). The chart's own labels hold over those that are given here, and those over commonLabels. */}}
{{- define "rayfleet.labelsAnd" -}}
{{- $root := index . 0 }}
{{- $more := deepCopy (default (dict) (index . 1)) }}
{{- $common := deepCopy (default (dict) $root.Values.commonLabels) }}
{{- merge (include "rayfleet.ownLabels" $root | fromYaml) $more $common | toYaml }}
{{- end }}

{{- define "rayfleet.leaseName" -}}
{{- default (include "rayfleet.fullname" .) .Values.leaderElection.leaseName }}
{{- end }}

{{- define "rayfleet.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "rayfleet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name: name the ServiceAccount that is there, or let the chart make one (serviceAccount.create)" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- /* registry/repository:tag or registry/repository@digest; takes (dict "image" … "version" …). */}}
{{- define "rayfleet.image" -}}
{{- with .image.registry }}{{ . }}/{{ end }}{{ .image.repository }}
{{- if .image.digest }}@{{ .image.digest }}{{ else }}:{{ default .version .image.tag }}{{ end }}
{{- end }}

{{- /* What fleets use where they say nothing. */}}
{{- define "rayfleet.fleetDefaults" -}}
{{- $image := include "rayfleet.image" (dict "image" .Values.servingImage "version" .Chart.AppVersion) }}
{{- merge (deepCopy .Values.fleetDefaults) (dict "image" $image "rayVersion" .Values.rayVersion) | toYaml }}
{{- end }}

{{- /* The rules of the fleets that are watched: in a ClusterRole, or in a Role of each namespace. */}}
{{- define "rayfleet.rules" -}}
- apiGroups: [rayfleet.io]
  resources: [modeldeployments, modelfleets]
  verbs: [get, list, watch]
- apiGroups: [rayfleet.io]
  resources: [modeldeployments/status, modelfleets/status]
  verbs: [patch]
- apiGroups: [ray.io]
  resources: [rayservices]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [ray.io]
  resources: [rayclusters]
  verbs: [list, watch, patch, delete]
- apiGroups: [""]
  resources: [services, secrets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [controllerrevisions]
  verbs: [list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
{{- end }}
