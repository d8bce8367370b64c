module NAME

go 1.24

require rota v0.0.0

replace rota => ./sdk
