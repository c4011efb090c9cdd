"""The model in processes of its own: `workers = N`.

`pool.py` is what the server uses, in the place of executor.py. A template process (template.py) is forked before the
server's event loop starts and forks the workers; each worker (process.py) loads the model and runs batches. Messages
(messages.py, channel.py) travel over a socket, tensors through memory that both sides map (shared_memory.py). An input
that ends its worker is tried once more alone, then kept out (quarantine.py). remote.py is what the server has of a
model that it has not loaded.
"""
