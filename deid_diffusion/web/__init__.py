"""The page to try it on, in a browser."""
