module libslim.example/ffi-examples/go

go 1.19
