module github.com/omnirelay/leadership/examples/embed

go 1.26.8

require github.com/omnirelay/leadership v0.0.0

require (
	go.etcd.io/bbolt v1.5.0 // indirect
	go.etcd.io/raft/v3 v3.7.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace github.com/omnirelay/leadership => ../..
