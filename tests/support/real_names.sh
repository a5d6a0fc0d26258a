# Runs in new namespaces (unshare --net --mount):
# - prepares the machine as the emulator asks, and runs it with Azure's names
# - runs agents without endpoints in their configuration, as the VM's identity and as an
#   application of Entra ID, and fetches a key from each
# - gets the application's token with Azure's library and its defaults
# Arguments: PYTHON DIRECTORY SECONDS; SECONDS is the time limit for a key.
# The last lines are the key's identifier for each agent and the token's audience.
set -eu
python=$1 dir=$2 seconds=$3
skragent() { "$python" -I -m skragent.cli.main "$@"; }
in_background() { exec "$python" -I -m skragent.cli.main "$@"; }  # so that $! is the process

ip link set lo up
cp /etc/hosts "$dir/hosts"
mount --bind "$dir/hosts" /etc/hosts

# The commands in the emulator's error message suffice for the second start.
skragent emulator --dir "$dir/emu" --real-names >"$dir/refused" 2>&1 && exit 3
grep -E '^  (ip|printf) ' "$dir/refused" >"$dir/commands"
. "$dir/commands"

in_background emulator --dir "$dir/emu" --real-names >"$dir/emulator.log" 2>&1 &
emulator=$!
trap 'kill $agents $emulator 2>/dev/null; wait' EXIT
agents=
until grep -q READY "$dir/emulator.log"; do kill -0 $emulator && sleep 0.1; done

# The emulator's commands for the system's trust store suffice for curl. The store is a
# copy here. One of the names is the provider of another region.
if command -v update-ca-certificates >/dev/null; then
  cp -a /etc/ssl/certs "$dir/certs"
  mkdir "$dir/local-certs"
  mount --bind "$dir/certs" /etc/ssl/certs
  mount --bind "$dir/local-certs" /usr/local/share/ca-certificates
  sed -n 's/^  Debian, Ubuntu: //p' "$dir/emulator.log" >"$dir/trust"
  . "$dir/trust" >/dev/null 2>&1
  curl -sSf https://sharedweu.weu.attest.azure.net/certs >/dev/null
fi

# Defaults for Azure, except the roots of trust, the TPM and the agent's sockets.
configure() {
  cat <<CONFIG
[agent]
api_socket = "$dir/$1.sock"
credentials_socket = "$dir/$1-credentials.sock"
admin_socket = "$dir/$1-admin.sock"
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
}
printed() { sed -n "s/^$1  *\\([^ ]*\\).*/\\1/p" "$dir/emulator.log"; }
tenant=$(printed tenant) client=$(printed application) secret="$dir/emu/application-secret"

configure vm >"$dir/vm.toml"
{
  configure application
  printf '[identity]\ntenant_id = "%s"\nclient_id = "%s"\n' "$tenant" "$client"
  printf 'secret_file = "%s"\n' "$secret"
} >"$dir/application.toml"
fetch() {
  in_background run --config "$dir/$1.toml" >"$dir/$1.log" 2>&1 &
  agents="$agents $!"
  skragent get demo --socket "$dir/$1.sock" --wait "$seconds" >"$dir/$1.key" ||
    { cat "$dir/$1.log"; exit 4; }
}
fetch vm
# From now on IMDS refuses tokens, so that the application cannot use the VM's identity.
curl -sSf --unix-socket "$dir/emu/faults.sock" http://localhost/faults \
  -d '{"fault": "imds.status=404,path=/metadata/identity"}' >/dev/null
fetch application
cat "$dir/vm.log" "$dir/application.log"
for name in vm application; do
  "$python" -I -c 'import json, sys; print(json.load(open(sys.argv[1]))["kid"])' "$dir/$name.key"
done

REQUESTS_CA_BUNDLE="$dir/emu/ca.pem" "$python" -I - "$tenant" "$client" "$secret" <<'PYTHON'
import base64, json, pathlib, sys
from azure.identity import ClientSecretCredential
tenant, client, secret = sys.argv[1:]
with ClientSecretCredential(tenant, client, pathlib.Path(secret).read_text()) as credential:
    token = credential.get_token("https://vault.azure.net/.default").token
print(json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))["aud"])
PYTHON
