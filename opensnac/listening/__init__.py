"""Listening tests after ITU-R BS.1534-3 (MUSHRA): a page for listeners, a server for their answers, and scoring."""
