module postern.dev/postern/translator/contract

go 1.20
