//! KV objects on drives: put, get, lookup, pin, evict, recover.
