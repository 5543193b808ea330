"""Counters for people: what the rings have done, in words. The numbers come from C, by way of the device."""
