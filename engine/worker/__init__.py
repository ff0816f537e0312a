"""What computes for sessions: slots, their caches, the stages that run blocks, in this process or in a child."""
