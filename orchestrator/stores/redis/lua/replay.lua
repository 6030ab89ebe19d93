#!lua flags=no-writes
-- Return what an idempotency key stands for. ARGV: the key, the fingerprint of the body.
return replay(ARGV[4], ARGV[5])
