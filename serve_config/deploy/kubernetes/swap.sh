#!/usr/bin/env bash
# Swap the default version in every pod, without a new pod: seconds instead of minutes.
#   serve_config/deploy/kubernetes/swap.sh VERSION [LIST]      LIST: lines `SHA256  https://…/NAME.mar`, fetched first
# TorchServe's management API listens on each pod's loopback address, so `kubectl exec` is the only way in, and the
# cluster's roles decide who may use it. If a pod fails, the script stops and rolls back the pods before it. New pods
# start with config/archives.txt, whose first line is the default: change that as well. A second run skips the pods that
# already serve VERSION.
set -euo pipefail

version=${1:?usage: swap.sh VERSION [LIST]}
list=${2:-}
namespace=${NAMESPACE:-maskrcnn}
in_pod() { kubectl --namespace "$namespace" exec ${input:+-i} "$1" -c torchserve -- "${@:2}"; }
serve() { in_pod "$1" python -m serve_config "${@:2}"; }
fetch() { input=yes in_pod "$1" serve_config/deploy/kubernetes/fetch_archives.sh - /srv/model_store; }

pods=$(kubectl --namespace "$namespace" get pods -l app.kubernetes.io/name=maskrcnn \
    --field-selector status.phase=Running -o name)
[ -n "$pods" ] || { echo "error: no pod of maskrcnn runs in the namespace $namespace" >&2; exit 1; }

swapped=()
for pod in $pods; do
    if serve "$pod" models </dev/null | grep -q "^$version  *default"; then
        echo "$pod serves $version already"
        continue
    fi
    if { [ -z "$list" ] || fetch "$pod" <"$list"; } &&
        serve "$pod" swap "$version" </dev/null; then
        swapped+=("$pod")
        continue
    fi
    echo "error: $pod did not swap to $version; rolling back the pods before it" >&2
    for done in "${swapped[@]}"; do
        serve "$done" rollback </dev/null || echo "error: $done did not roll back" >&2
    done
    exit 1
done
echo "${#swapped[@]} pods were swapped to $version"
