#!/usr/bin/env python3
"""service.py: several prompts at once from Python, by ctypes alone.

    python3 service.py models/Aquila-7B "Once upon a time" "The capital of France is"

The structs repeat aquila.h field by field. Their sizes are given to the library (struct_size), so a newer library
takes them as they are.
"""

import ctypes
import sys
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

OK, FOREVER, NUL_TERMINATED = 0, -1, ctypes.c_size_t(-1).value
TEXT, FINISH = 2, 3  # kinds of events


class Error(ctypes.Structure):
    _fields_ = [("status", c_int32), ("native_code", c_int32), ("message", c_char * 504)]


class Params(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("flags", c_uint32), ("max_tokens", c_uint32), ("min_tokens", c_uint32),
        ("temperature", c_float), ("top_p", c_float), ("min_p", c_float), ("typical_p", c_float),
        ("top_k", c_int32), ("penalty_last_n", c_int32), ("repeat_penalty", c_float),
        ("frequency_penalty", c_float), ("presence_penalty", c_float), ("n_stop", c_uint32), ("seed", c_uint64),
        ("stop", c_void_p), ("stop_tokens", c_void_p), ("logit_bias", c_void_p), ("n_stop_tokens", c_uint32),
        ("n_logit_bias", c_uint32), ("speculate", c_uint32), ("constraint_kind", c_uint32), ("deadline_ms", c_int64),
        ("priority", c_int32), ("n_logprobs", c_uint32), ("constraint", c_char_p),
    ]


class Job(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("input_kind", c_uint32), ("input", c_char_p), ("input_size", c_size_t),
        ("params", POINTER(Params)), ("queue", c_void_p), ("user", c_void_p),
    ]


class Stats(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("prompt_tokens", c_uint32), ("cached_tokens", c_uint32),
        ("output_tokens", c_uint32), ("queue_ms", c_double), ("tokenize_ms", c_double), ("prefill_ms", c_double),
        ("first_token_ms", c_double), ("decode_ms", c_double), ("total_ms", c_double),
        ("proposed_tokens", c_uint32), ("accepted_tokens", c_uint32),
    ]


class Event(ctypes.Structure):
    _fields_ = [
        ("struct_size", c_uint32), ("kind", c_uint32), ("text", c_void_p), ("text_size", c_size_t),
        ("tokens", POINTER(c_int32)), ("logprobs", POINTER(c_float)), ("n_tokens", c_size_t), ("finish", c_uint32),
        ("prefill_done", c_uint32), ("prefill_total", c_uint32), ("status", c_int32), ("stats", POINTER(Stats)),
        ("top", c_void_p), ("n_logprobs", c_uint32), ("reserved", c_uint32),
    ]


def library(name="libaquila.so.1"):
    """The library with the types of the functions that are used here."""
    lib = ctypes.CDLL(name)
    for function, result, arguments in (
        ("aquila_load", c_int32, [c_char_p, c_void_p, POINTER(c_void_p), POINTER(Error)]),
        ("aquila_free", None, [c_void_p]),
        ("aquila_gen_params_init", None, [POINTER(Params), c_size_t]),
        ("aquila_submit", c_int32, [c_void_p, POINTER(Job), POINTER(c_void_p), POINTER(Error)]),
        ("aquila_next", c_int32, [c_void_p, POINTER(Event), c_int64, POINTER(Error)]),
        ("aquila_request_user", c_void_p, [c_void_p]),
        ("aquila_request_free", None, [c_void_p]),
        ("aquila_queue_create", c_int32, [POINTER(c_void_p), POINTER(Error)]),
        ("aquila_queue_wait", c_int32,
         [c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_size_t), c_int64, POINTER(Error)]),
        ("aquila_queue_free", None, [c_void_p]),
    ):
        getattr(lib, function).restype, getattr(lib, function).argtypes = result, arguments
    return lib


def check(status, error):
    """Positive statuses are no failures."""
    if status < OK:
        raise RuntimeError(error.message.decode())
    return status


def main():
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    lib, error = library(), Error()
    engine, queue = c_void_p(), c_void_p()
    check(lib.aquila_load(sys.argv[1].encode(), None, byref(engine), byref(error)), error)
    check(lib.aquila_queue_create(byref(queue), byref(error)), error)
    params = Params()
    lib.aquila_gen_params_init(byref(params), ctypes.sizeof(params))
    params.max_tokens = 48

    prompts = sys.argv[2:]
    requests, texts = [], [b""] * len(prompts)
    for number, prompt in enumerate(prompts):
        request = c_void_p()
        job = Job(ctypes.sizeof(Job), 0, prompt.encode(), NUL_TERMINATED, ctypes.pointer(params), queue, number + 1)
        check(lib.aquila_submit(engine, byref(job), byref(request), byref(error)), error)
        requests.append(request)

    ready, count, event = (c_void_p * 16)(), c_size_t(), Event(ctypes.sizeof(Event))
    left = len(prompts)
    while left:
        check(lib.aquila_queue_wait(queue, ready, 16, byref(count), FOREVER, byref(error)), error)
        for request in ready[: count.value]:
            number = lib.aquila_request_user(request) - 1
            while lib.aquila_next(request, byref(event), 0, byref(error)) == OK:
                if event.kind == TEXT:
                    texts[number] += ctypes.string_at(event.text, event.text_size)
                elif event.kind == FINISH:
                    left -= 1
                    stats = event.stats.contents
                    print(f"{prompts[number]}{texts[number].decode()}\n  ({stats.output_tokens} tokens, "
                          f"first after {stats.first_token_ms:.0f} ms)\n")

    for request in requests:
        lib.aquila_request_free(request)
    lib.aquila_queue_free(queue)
    lib.aquila_free(engine)


if __name__ == "__main__":
    main()
