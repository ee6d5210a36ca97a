"""Listening tests after ITU-R BS.1534-3 (MUSHRA): a page that asks listeners, a server that keeps answers, a score."""
