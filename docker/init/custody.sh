#!/bin/sh
# Runs once before the roles: makes what they expect to be there, and leaves alone what is.
set -eu
umask 077
keys=/var/lib/custody/keys

# All tokens in place of personal data derive from these 32 bytes: back them up.
[ -s "$keys/pii.key" ] || head -c 32 /dev/urandom >"$keys/pii.key"

custody topics create

# The gateway takes nobody without a key. Its secret is shown once; this one is for trying Custody out.
if [ ! -s "$keys/api-keys.json" ]; then
    custody api-keys create --name local-agents --tenant default --expires-in never \
        --file "$keys/api-keys.json" --log "$CUSTODY_LOG__URL" >"$keys/local-agents.txt"
fi
echo "the API key for agents on this machine: docker compose exec gateway cat $keys/local-agents.txt"
