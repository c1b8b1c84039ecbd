"""The one store: Redis 7 or Valkey."""
