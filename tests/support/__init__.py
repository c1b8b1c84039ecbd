"""What tests share: peers, servers and builders. Nothing here is a test."""
