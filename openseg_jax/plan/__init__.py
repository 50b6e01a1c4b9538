"""What a run takes before it is paid for: memory, arithmetic, exchange and the time of a step."""
