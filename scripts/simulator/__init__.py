"""A fleet of protocol-true volunteers that train nothing, in one process: what a coordinator is tried out with.

settings     what the fleet is like: speeds, lines, lives, misbehaviour, all drawn from one seed
profile      one volunteer's draw of it
session      one volunteer's key, token and calls
work         what a lease comes to: here pretended; a benchmark may train for real
volunteer    lease, pull, work, hand in, and every way to do it badly
fleet        all of them, their deaths and their returns
tally        what they saw: counts, refusals by name, times of calls
mutation     messages and bytes that no worker sends
"""
