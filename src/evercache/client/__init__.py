"""What a call does, step by step: written once for asyncio, and generated from that for threads."""
