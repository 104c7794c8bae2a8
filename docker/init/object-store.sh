#!/bin/sh
# Makes the archive's bucket with object lock, which can be chosen only when a bucket is made, and sets
# how long it keeps every object. Leaves a bucket that is there as it is, but for the retention.
set -eu
s3api() { aws --endpoint-url "$OBJECT_STORE_URL" s3api "$@"; }

s3api head-bucket --bucket "$ARCHIVE_BUCKET" 2>/dev/null ||
    s3api create-bucket --bucket "$ARCHIVE_BUCKET" --object-lock-enabled-for-bucket
s3api put-object-lock-configuration --bucket "$ARCHIVE_BUCKET" --object-lock-configuration \
    "ObjectLockEnabled=Enabled,Rule={DefaultRetention={Mode=$ARCHIVE_RETENTION_MODE,Days=$ARCHIVE_RETENTION_DAYS}}"
s3api get-object-lock-configuration --bucket "$ARCHIVE_BUCKET"
