// coder/websocket：参数是地址、令牌。说什么见 README.md。
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/coder/websocket"
)

type message struct {
	Type      string `json:"type"`
	MessageID string `json:"message_id"`
}

type frame struct {
	message
	Messages []message `json:"messages"`
}

type ack struct {
	Type       string   `json:"type"`
	MessageIDs []string `json:"message_ids"`
	RequestID  int      `json:"request_id"`
}

func main() {
	ctx, url, token := context.Background(), os.Args[1], os.Args[2]
	socket, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		Subprotocols: []string{"meeting-push.v1", "bearer." + token},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	socket.SetReadLimit(4 << 20)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		socket.Close(websocket.StatusNormalClosure, "")
	}()
	for {
		_, text, err := socket.Read(ctx)
		if err != nil {
			code := int(websocket.CloseStatus(err))
			if code < 0 {
				code = int(websocket.StatusNormalClosure) // 我们自己关的
			}
			fmt.Printf("{\"type\":\"closed\",\"code\":%d}\n", code)
			return
		}
		fmt.Println(string(text))
		acknowledge(ctx, socket, text)
	}
}

func acknowledge(ctx context.Context, socket *websocket.Conn, text []byte) {
	var heard frame
	if json.Unmarshal(text, &heard) != nil {
		return
	}
	ids := []string{}
	for _, one := range append(heard.Messages, heard.message) {
		if one.Type == "new_message" {
			ids = append(ids, one.MessageID)
		}
	}
	if len(ids) > 0 {
		said, _ := json.Marshal(ack{"ack", ids, 1})
		_ = socket.Write(ctx, websocket.MessageText, said)
	}
}
