module culvert.example/strict

go 1.25

require github.com/spiffe/go-spiffe/v2 v2.9.0
