#!/usr/bin/env bash
# Runs compose.ha.yaml as people would, and asks it from outside, by its one published URL and
# without following redirects: before and after the leader's container is killed.
# Needs root, buildah, podman, podman-compose, mmdebstrap and curl. The images: those that are named, or the one
# that docker/test.sh builds, and HAProxy in a stand-in made of Debian packages. `python3 dev.py containers` runs both.
#
#   docker/test-ha.sh [IMAGE OF NEARQL [IMAGE OF HAPROXY]]
set -euo pipefail
cd "$(dirname "$0")"
export NEARQL_IMAGE=${1:-localhost/nearql:test} HAPROXY_IMAGE=${2:-localhost/nearql-haproxy:test}
NEARQL_ADMIN_KEY=$(od -An -tx1 -N32 /dev/urandom | tr -d ' \n')
export NEARQL_ADMIN_KEY

work=$(mktemp -d)
project=nearql-ha-$$
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

make_haproxy() {
    buildah inspect --type image "$HAPROXY_IMAGE" >/dev/null 2>&1 && return
    mmdebstrap --quiet --variant=minbase --include=haproxy bookworm "$work/haproxy.tar"
    local container
    container=$(buildah from scratch)
    buildah add -q "$container" "$work/haproxy.tar" / >/dev/null
    buildah config --cmd '["haproxy", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]' "$container"
    buildah commit -q "$container" "$HAPROXY_IMAGE" >/dev/null
    buildah rm "$container" >/dev/null
}

compose() {
    podman-compose -p "$project" -f compose.ha.yaml "$@" >>"$work/compose.log" 2>&1
}
clean_up() {
    local code=$?
    [ "$code" -eq 0 ] || { tail -40 "$work/compose.log"; podman logs "${project}_n1_1" 2>&1 | tail -20; } >&2
    compose down -v || true
    rm -rf "$work"
    exit "$code"
}
trap clean_up EXIT

url=http://127.0.0.1:8470
# sql URL TEXT: the answer's body; fails unless it is a 200 of that very address.
sql() {
    curl -sS --fail-with-body --max-time 30 --max-redirs 0 "$1/v1/sql" \
        -H "Authorization: Bearer $NEARQL_ADMIN_KEY" -H 'Content-Type: application/json' \
        -d "{\"sql\": \"$2\"}"
}
# within SECONDS COMMAND...: repeats it until it succeeds.
within() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >"$work/last" 2>&1; do
        [ "$SECONDS" -lt "$until" ] || { echo "never: $*" >&2; cat "$work/last" >&2; return 1; }
        sleep 0.5
    done
}
leader() {
    curl -sS --max-time 5 -H "Authorization: Bearer $NEARQL_ADMIN_KEY" "$url/v1/cluster" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["leader"])'
}

echo "== images"
make_haproxy
echo "== up"
compose up -d
within 120 curl -sS --fail --max-time 5 "$url/leaderz"

echo "== a table, rows and a search by one URL"
within 60 sql "$url" "CREATE TABLE IF NOT EXISTS docs (id BIGINT PRIMARY KEY, vec VECTOR(2))"
sql "$url" "INSERT INTO docs VALUES (1, '[1,0]'), (2, '[0,1]')" >/dev/null
sql "$url" "SELECT id FROM docs ORDER BY vec <-> '[1,0]' LIMIT 1" | grep -q '"rows":\[\[1\]\]'

echo "== a follower's own URL names the leader's, which can be reached from here"
first=$(leader)
for port in 8480 8490 8500; do
    code=$(curl -sS -o "$work/body" -D "$work/head" -w '%{http_code}' --max-time 20 \
        "http://127.0.0.1:$port/v1/sql" -H "Authorization: Bearer $NEARQL_ADMIN_KEY" \
        -H 'Content-Type: application/json' -d "{\"sql\": \"INSERT INTO docs VALUES ($port, NULL)\"}")
    if [ "$code" = 307 ]; then
        location=$(sed -n 's/^[Ll]ocation: *\(.*\)\r$/\1/p' "$work/head")
        sql "${location%/v1/sql}" "INSERT INTO docs VALUES ($port, NULL)" >/dev/null
    else
        [ "$code" = 200 ] || { cat "$work/body" >&2; exit 1; }
    fi
done

echo "== the leader's container ($first) is killed"
podman kill "${project}_${first}_1" >/dev/null
within 30 sql "$url" "INSERT INTO docs VALUES (3, '[1,1]') ON CONFLICT (id) DO NOTHING"
sql "$url" "SELECT count(*) FROM docs" | grep -q '"rows":\[\[6\]\]'
[ "$(leader)" != "$first" ]

echo "== and comes back"
podman start "${project}_${first}_1" >/dev/null
in_sync() {
    curl -sS --max-time 5 -H "Authorization: Bearer $NEARQL_ADMIN_KEY" "$url/v1/cluster/shards" |
        grep -q '"in_sync":\["n1","n2","n3"\]'
}
within 90 in_sync
echo "compose test passed"
