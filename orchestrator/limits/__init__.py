"""What a caller may have: so many calls in a time, requests and streams at once, tokens a day."""
