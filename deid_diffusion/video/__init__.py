"""Clips: every face in every frame replaced, one pseudonym a person's track; sound, times and colours kept."""
