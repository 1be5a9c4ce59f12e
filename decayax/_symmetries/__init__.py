"""Scale symmetries: which weights does a model not see the size of?"""
