#!/usr/bin/env bash
# Builds the image and runs it as production would: no root, read-only, no capabilities, no network.
# Needs root, buildah, podman, runc and mmdebstrap, but neither a Docker daemon nor an image registry:
# the base image is a stand-in made of Debian packages. `docker/test.sh gpu` does so with the image for GPUs,
# which serves without one, too, unless it is told engine.device: gpu.
set -euo pipefail
device=${1:-cpu}
cd "$(dirname "$0")/.."

work=$(mktemp -d)
base=localhost/nearql-base:test
image=localhost/nearql:test
[ "$device" = cpu ] || image=localhost/nearql-$device:test
volume=nearql-test-$$
name=nearql-test-$$

# Without these limits runc fails with "setrlimit: Operation not permitted" in nested containers.
cat >"$work/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
export CONTAINERS_CONF="$work/containers.conf"

clean_up() {
    podman rm -f -t 0 "$name" >/dev/null 2>&1 || true
    podman volume rm -f "$volume" >/dev/null 2>&1 || true
    rm -rf "$work"
}
trap clean_up EXIT

make_base() {
    buildah inspect --type image "$base" >/dev/null 2>&1 && return
    mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
        bookworm "$work/base.tar"
    local container
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/base.tar" / >/dev/null
    buildah commit -q "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
}

build() {
    # The host's certificates: its network may have an authority of its own.
    buildah bud --quiet --format docker --isolation chroot --pull-never --build-arg BASE="$base" --build-arg DEVICE="$device" \
        -v /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro \
        -t "$image" -f docker/Dockerfile .
}

# Podman could schedule health checks only through systemd; `talk` and the check below ask instead.
start() {
    podman run -d --no-healthcheck --name "$name" --network none --read-only --tmpfs /tmp --cap-drop ALL \
        --security-opt no-new-privileges -v "$volume:/var/lib/nearql" "$image" "$@" >/dev/null
}

talk() {
    podman exec -i "$name" python3 - "$1" <docker/smoke.py || { podman logs "$name"; exit 1; }
}

stop() {
    podman stop -t 30 "$name" >/dev/null
    local code
    code=$(podman inspect --format '{{.State.ExitCode}}' "$name")
    if [ "$code" -ne 0 ]; then
        podman logs "$name"
        echo "SIGTERM ended with exit code $code, not 0" >&2
        exit 1
    fi
    podman rm "$name" >/dev/null
}

echo "== base image"
make_base
echo "== build"
build

echo "== refuses to serve every address without authentication"
if podman run --rm --no-healthcheck --network none --read-only --tmpfs /tmp "$image" 2>"$work/refusal"; then
    echo "it started" >&2
    exit 1
fi
grep -q -- --insecure "$work/refusal" || { cat "$work/refusal"; exit 1; }

if [ "$device" = gpu ]; then
    echo "== does not start without the device that it is told to use"
    if podman run --rm --no-healthcheck --network none --read-only --tmpfs /tmp -e NEARQL_ENGINE_DEVICE=gpu \
        "$image" --insecure 2>"$work/refusal"; then
        echo "it started" >&2
        exit 1
    fi
    grep -q "engine.device" "$work/refusal" || { cat "$work/refusal"; exit 1; }
    echo "== has FAISS-GPU and CuPy"
    podman run --rm --no-healthcheck --network none --entrypoint python3 "$image" -c \
        'import cupy, faiss; assert hasattr(faiss, "StandardGpuResources"); print(cupy.__version__)'
fi

echo "== serves, is healthy, stops cleanly"
start --insecure
talk first
podman exec "$name" python3 /opt/nearql/healthcheck.py
stop

echo "== finds its data again"
start --insecure
talk again
stop
echo "image test passed"
