"""Text generation on decoder models: prompts, slots with cached keys and values, sampling, constraints. No sockets.

`text_generator` is the whole of it for one loaded model; gpu_worker/generation.py loads a model into it.
"""
