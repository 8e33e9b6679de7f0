"""What turns decisions into progress; it reaches the world only through its ports."""
