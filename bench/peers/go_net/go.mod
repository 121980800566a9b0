module go_net

go 1.25.0
