"""The model in processes of its own: `workers = N`.

`pool.py` is what the server uses, in the place of executor.py: it decides which worker (worker.py) runs what, and what
is tried again (batches.py); crew.py starts and replaces workers. A template process (template.py, template_process.py)
is forked before the server's event loop starts and forks the workers; each worker (process.py) loads the model and runs
batches and streams. Messages (messages.py, channel.py) travel over a socket, tensors through memory that both sides map
(shared_memory.py). An input that ends its worker is tried once more alone, then kept out (quarantine.py). remote.py is
what the server has of a model that it has not loaded.
"""
