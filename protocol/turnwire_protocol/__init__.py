"""The Turnwire wire contract, version 1: frames, codes, codecs and the grammar verifier.

This package is all that a client or a server in any language is checked against. It does no I/O, reads no clock and
knows nothing of the server that speaks it. docs/protocol.md is the normative text; the schema/ folder beside this
package is generated from these models.
"""
