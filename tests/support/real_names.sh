# In namespaces of its own (unshare --net --mount): prepare what the emulator asks for,
# run it at Azure's own names, and let an agent whose configuration names no endpoint
# fetch a key. Arguments: PYTHON DIRECTORY. The last line is the key's identifier.
set -eu
python=$1 dir=$2
skragent() { "$python" -I -m skragent.cli.main "$@"; }
in_background() { exec "$python" -I -m skragent.cli.main "$@"; }  # its $! can be killed

ip link set lo up
cp /etc/hosts "$dir/hosts"
mount --bind "$dir/hosts" /etc/hosts

# What it says that root must type is enough, or the second start fails as well.
skragent emulator --dir "$dir/emu" --real-names >"$dir/refused" 2>&1 && exit 3
grep -E '^  (ip|echo) ' "$dir/refused" >"$dir/commands"
. "$dir/commands"

in_background emulator --dir "$dir/emu" --real-names >"$dir/emulator.log" 2>&1 &
emulator=$!
trap 'kill $agent $emulator 2>/dev/null; wait' EXIT
agent=
i=0
until grep -q READY "$dir/emulator.log"; do
  i=$((i + 1)) && [ $i -lt 300 ] && kill -0 $emulator && sleep 0.1
done

# Azure's defaults, but for the roots of trust, the TPM and where the agent listens.
cat >"$dir/skragent.toml" <<CONFIG
[agent]
api_socket = "$dir/api.sock"
credentials_socket = "$dir/credentials.sock"
admin_socket = "$dir/admin.sock"
metrics_listen = ""
[vtpm]
tcti = "swtpm:path=$dir/emu/tpm.sock"
tcg_log = "$dir/emu/binary_bios_measurements"
[trust]
amd_roots = "$dir/emu/amd-roots.pem"
tls_roots = "$dir/emu/ca.pem"
release_roots = "$dir/emu/ca.pem"
[keys.demo]
vault = "https://skragent-demo.vault.azure.net"
allow = [{ user = $(id -u) }]
CONFIG
in_background run --config "$dir/skragent.toml" >"$dir/agent.log" 2>&1 &
agent=$!
skragent get demo --socket "$dir/api.sock" --wait 30 >"$dir/key" || { cat "$dir/agent.log"; exit 4; }
cat "$dir/agent.log"
"$python" -I -c 'import json, sys; print(json.load(open(sys.argv[1]))["kid"])' "$dir/key"
