module rota

go 1.24
