"""Bank building with one worker and with several, and what that means for many images."""
