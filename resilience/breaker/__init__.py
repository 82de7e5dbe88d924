"""The circuit breaker: policy and state machine (pure), its twin in Lua, the Redis store, and the guard in front."""
