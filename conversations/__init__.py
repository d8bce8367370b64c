"""Dialogues with models as chains of messages: each message is stored once and named by its digest."""
