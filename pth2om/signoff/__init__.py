"""Sign-off: evidence on a device becomes a signed statement about OM files, which anybody can verify offline."""
