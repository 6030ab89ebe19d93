"""The limits of a caller: its rate of calls, requests and streams at once, tokens a day."""
