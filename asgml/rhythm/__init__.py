"""Which encoder updates when: configuration, schedules, the deciding stage."""
