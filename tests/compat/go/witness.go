package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/pkg/zaplog"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
	"google.golang.org/grpc"
)

// acknowledged holds what the server answered to an acknowledgement, by receipt handle.
//
// The client's `SimpleConsumer.Ack` returns nil whatever the status of the answer says. A scenario has to know, so an interceptor looks at
// the answers on their way to the client and changes nothing.
var acknowledged sync.Map

// watchAcknowledgements adds the interceptor to every connection the client opens, through the client's own options, and moves the log of
// the connections, which would go to one file that all programs share.
func watchAcknowledgements(folder string) {
	options := rmq.WithRpcClientConnOption(
		rmq.WithZapLogger(zaplog.New(zaplog.WithFileName(filepath.Join(folder, "calls.log")))),
		rmq.WithDialOptions(grpc.WithChainUnaryInterceptor(witness, sends.intercept)),
	)
	open := rmq.NewRpcClient
	rmq.NewRpcClient = func(target string, given ...rmq.RpcClientOption) (rmq.RpcClient, error) {
		return open(target, append(given, options)...)
	}
}

func witness(ctx context.Context, method string, request, answer any, connection *grpc.ClientConn, call grpc.UnaryInvoker, options ...grpc.CallOption) error {
	err := call(ctx, method, request, answer, connection, options...)
	if acks, isAck := request.(*v2.AckMessageRequest); isAck && err == nil {
		for _, entry := range acks.GetEntries() {
			acknowledged.Store(entry.GetReceiptHandle(), worst(answer.(*v2.AckMessageResponse)))
		}
	}
	return err
}

// worst is the status of the answer, or of an entry of it that was refused. The client sends one entry per call.
func worst(answer *v2.AckMessageResponse) *v2.Status {
	for _, entry := range answer.GetEntries() {
		if entry.GetStatus().GetCode() != v2.Code_OK {
			return entry.GetStatus()
		}
	}
	return answer.GetStatus()
}

// ack acknowledges and returns what went wrong: an `*rmq.ErrRpcStatus` when the server refused, another error when the call itself broke.
func ack(consumer rmq.SimpleConsumer, message *rmq.MessageView) error {
	handle := message.GetReceiptHandle()
	if err := consumer.Ack(context.Background(), message); err != nil {
		return err
	}
	seen, found := acknowledged.LoadAndDelete(handle)
	if !found {
		return fmt.Errorf("the acknowledgement of `%s` returned, but no answer was seen", message.GetMessageId())
	}
	status := seen.(*v2.Status)
	if status.GetCode() != v2.Code_OK {
		return &rmq.ErrRpcStatus{Code: int32(status.GetCode()), Message: status.GetMessage()}
	}
	return nil
}
