"""Draws on which the instrument was once wrong, as `--replay` takes them, by what was wrong."""

KEPT = {
    "a foreign message in unacked beside a task was a task without a name": (
        "{'tasks': [{'countdown': 300}], 'foreign': 1, 'foreign_held': True}"
    ),
    "a compressed task of protocol 1 was somebody else's message, and lost": (
        "{'conf': {'task_protocol': 1, 'task_compression': 'gzip'}, 'consumed': ('mail',), "
        "'pools': ('threads',), 'tasks': [{}]}"
    ),
    "a pickled task of protocol 1 was somebody else's message, and lost": (
        "{'conf': {'task_protocol': 1}, 'consumed': ('mail',), "
        "'pools': ('threads',), 'tasks': [{'kind': 'refused'}]}"
    ),
    "the list of a broadcast had a consumer, and nobody reads it": (
        "{'pools': ('threads',), 'tasks': [{'kind': 'misrouted', 'queue': 'to_all'}]}"
    ),
    "a worker that had shut down was still meant by a broadcast": (
        "{'pools': ('threads', 'prefork'), 'faults': ('SIGQUIT',), 'moment': 'before', "
        "'tasks': [{'kind': 'broadcast', 'queue': 'to_all'}]}"
    ),
    "a worker that was killed before a broadcast was meant by it": (
        "{'pools': ('threads', 'prefork'), 'faults': ('kill worker',), 'moment': 'before', "
        "'tasks': [{'kind': 'broadcast', 'queue': 'to_all'}]}"
    ),
    "a run that was cut off in a green thread still ran": (
        "{'conf': {'worker_cancel_long_running_tasks_on_connection_loss': True, "
        "'worker_prefetch_multiplier': 1}, 'pools': ('eventlet',), 'concurrency': 3, "
        "'tasks': [{'seconds': 1.2, 'late': True}, {'seconds': 1.2, 'late': True}, "
        "{'seconds': 1.2, 'late': True}], 'faults': ('restart broker',)}"
    ),
}
