// service.go: several prompts at once from Go, by cgo. One goroutine waits for all requests; each prompt has a channel.
//
//	CGO_CFLAGS=$(pkg-config --cflags aquila) CGO_LDFLAGS=$(pkg-config --libs aquila) go run service.go MODEL PROMPT...
package main

/*
#include <aquila.h>
#include <stdlib.h>
#include <string.h>

// C memory points to C memory only, as cgo demands: the job and its parameters are made here.
static aquila_status submit(aquila_engine *engine, const char *prompt, aquila_queue *queue, size_t number,
                            aquila_request **request, aquila_error *error) {
	aquila_gen_params params;
	aquila_job job;
	aquila_gen_params_init(&params, sizeof params);
	params.max_tokens = 48;
	memset(&job, 0, sizeof job);
	job.struct_size = sizeof job;
	job.input = prompt;
	job.input_size = AQUILA_NTS;
	job.params = &params;
	job.queue = queue;
	job.user = (void *)number;
	return aquila_submit(engine, &job, request, error);
}

static size_t number_of(aquila_request *request) { return (size_t)aquila_request_user(request); }

static aquila_status next(aquila_request *request, aquila_event *event, aquila_error *error) {
	event->struct_size = sizeof *event;
	return aquila_next(request, event, 0, error);
}
*/
import "C"

import (
	"fmt"
	"os"
	"sync"
	"unsafe"
)

func check(status C.aquila_status, e *C.aquila_error) {
	if status < C.AQUILA_OK {
		fmt.Fprintln(os.Stderr, "service:", C.GoString(&e.message[0]))
		os.Exit(1)
	}
}

// serve hands the pieces of all requests to their channels, and closes a channel at its request's end.
func serve(queue *C.aquila_queue, pieces []chan string) {
	ready := make([]*C.aquila_request, 16)
	for left := len(pieces); left > 0; {
		var count C.size_t
		var e C.aquila_error
		check(C.aquila_queue_wait(queue, &ready[0], 16, &count, -1, &e), &e)
		for _, request := range ready[:count] {
			number := int(C.number_of(request)) - 1
			var event C.aquila_event
			for C.next(request, &event, &e) == C.AQUILA_OK {
				switch event.kind {
				case C.AQUILA_EVENT_TEXT:
					pieces[number] <- C.GoStringN(event.text, C.int(event.text_size))
				case C.AQUILA_EVENT_FINISH:
					close(pieces[number])
					left--
				}
			}
		}
	}
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: service MODEL PROMPT...")
		os.Exit(2)
	}
	var engine *C.aquila_engine
	var queue *C.aquila_queue
	var e C.aquila_error
	model := C.CString(os.Args[1])
	defer C.free(unsafe.Pointer(model))
	check(C.aquila_load(model, nil, &engine, &e), &e)
	check(C.aquila_queue_create(&queue, &e), &e)

	prompts := os.Args[2:]
	pieces := make([]chan string, len(prompts))
	requests := make([]*C.aquila_request, len(prompts))
	texts := make([]string, len(prompts))
	var readers sync.WaitGroup
	for i, prompt := range prompts {
		pieces[i] = make(chan string, 64)
		text := C.CString(prompt)
		check(C.submit(engine, text, queue, C.size_t(i+1), &requests[i], &e), &e)
		C.free(unsafe.Pointer(text))
		readers.Add(1)
		go func(i int) {
			defer readers.Done()
			for piece := range pieces[i] {
				texts[i] += piece
			}
		}(i)
	}
	serve(queue, pieces)
	readers.Wait()
	for i, prompt := range prompts {
		fmt.Printf("%s%s\n\n", prompt, texts[i])
		C.aquila_request_free(requests[i])
	}
	C.aquila_queue_free(queue)
	C.aquila_free(engine)
}
