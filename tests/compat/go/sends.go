package main

import (
	"context"
	"sync"

	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// sends stands between the client and the network, for the two scenarios that need what the client has no call for.
var sends sendWatch

// sendWatch sees every SendMessage call. By default it changes nothing.
type sendWatch struct {
	mutex sync.Mutex
	lose  int
	trace string
	ids   []string
}

// loseNextAnswer lets the next send reach the server and loses the answer, so that the client sends the same message again.
func (watch *sendWatch) loseNextAnswer() {
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	watch.lose, watch.ids = 1, nil
}

// traceWith puts a trace context into every message from now on, as the instrumentation of an application does.
func (watch *sendWatch) traceWith(context string) {
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	watch.trace = context
}

// calledWith is the message ids of the calls since the last `loseNextAnswer`.
func (watch *sendWatch) calledWith() []string {
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	return watch.ids
}

func (watch *sendWatch) intercept(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	send, isSend := request.(*v2.SendMessageRequest)
	lost := isSend && watch.take(send)
	if err := call(ctx, method, request, answer, connection, options...); err != nil {
		return err
	}
	if lost {
		return status.Error(codes.DeadlineExceeded, "the answer was lost on purpose")
	}
	return nil
}

// take notes a send and tells whether its answer is to be lost.
func (watch *sendWatch) take(send *v2.SendMessageRequest) bool {
	watch.mutex.Lock()
	defer watch.mutex.Unlock()
	for _, message := range send.GetMessages() {
		watch.ids = append(watch.ids, message.GetSystemProperties().GetMessageId())
		if watch.trace != "" {
			message.SystemProperties.TraceContext = &watch.trace
		}
	}
	watch.lose--
	return watch.lose == 0
}
